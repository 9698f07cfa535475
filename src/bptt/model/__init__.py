"""What is computed: layers, likelihoods, networks."""
