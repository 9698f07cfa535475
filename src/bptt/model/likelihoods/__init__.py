"""What the outputs mean, the probability of y given o: a file a likelihood, all named here."""

from bptt.model.likelihoods.bernoulli import Bernoulli as Bernoulli
from bptt.model.likelihoods.beta import Beta as Beta
from bptt.model.likelihoods.categorical import Categorical as Categorical
from bptt.model.likelihoods.gaussian import Gaussian as Gaussian
from bptt.model.likelihoods.gaussian_mixture import GaussianMixture as GaussianMixture
from bptt.model.likelihoods.laplace import Laplace as Laplace
from bptt.model.likelihoods.likelihood import Likelihood as Likelihood
from bptt.model.likelihoods.negative_binomial import NegativeBinomial as NegativeBinomial
from bptt.model.likelihoods.pen_strokes import PenStrokes as PenStrokes
from bptt.model.likelihoods.poisson import Poisson as Poisson
from bptt.model.likelihoods.student_t import StudentT as StudentT
