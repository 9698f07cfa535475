"""Family names to languages: a folder of labelled texts, read, trained on and told apart.

    python benchmarks/names.py [--seeds 1] [--cell gru] [--figure docs/figures/labels.png]

Faker's family names of fifteen languages that are written in Latin letters, a file for each; a
tenth of the names is held out, none of them in both parts. It is what `bptt train FOLDER` does.
Beside it: naming the commonest language, and a logistic regression on pairs of letters.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import bptt

LOCALES = {
    "Croatian": "hr_HR",
    "Czech": "cs_CZ",
    "Danish": "da_DK",
    "Dutch": "nl_NL",
    "English": "en_GB",
    "Estonian": "et_EE",
    "Finnish": "fi_FI",
    "French": "fr_FR",
    "German": "de_DE",
    "Hungarian": "hu_HU",
    "Italian": "it_IT",
    "Lithuanian": "lt_LT",
    "Polish": "pl_PL",
    "Romanian": "ro_RO",
    "Turkish": "tr_TR",
}
LISTS = ("last_names", "last_names_est", "unisex_last_names", "last_names_male")
MOST = 700
"""Names of a language, at most."""


def names_of(locale: str) -> list[str]:
    """Return a language's family names, sorted."""
    provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
    lists = [getattr(provider, name) for name in LISTS if vars(provider).get(name)]
    names = sorted({name.lower() for name in lists[0] if name.replace(" ", "").isalpha()})
    order = np.random.default_rng(0).permutation(len(names))[:MOST]
    return [names[i] for i in sorted(order)]


def logistic(data: bptt.Labelled) -> float:
    """Return the accuracy of a logistic regression on pairs of letters."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    assert data.vocabulary is not None
    texts = np.array(
        [
            data.vocabulary.decode(part.tolist())
            for part in np.split(data.x, np.cumsum(data.lengths)[:-1])
        ]
    )
    held = data.held_out
    pairs = CountVectorizer(analyzer="char_wb", ngram_range=(2, 2))
    model = LogisticRegression(max_iter=2000)
    model.fit(pairs.fit_transform(texts[~held]), data.labels[~held])
    return float(model.score(pairs.transform(texts[held]), data.labels[held]))


def main() -> None:
    """Write the names, train, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cell", default="gru")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--figure", type=Path, help="where to draw what is taken for what")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for language, locale in LOCALES.items():
            Path(folder, f"{language}.txt").write_text("\n".join(names_of(locale)) + "\n")
        data = bptt.read_labelled(folder)
        held = data.held_out
        print(f"{(~held).sum():,} names of {len(data.classes)} languages, {held.sum()} held out")
        print(f"naming the commonest:                    {1 - data.criterion.baseline:.1%}")
        print(f"a logistic regression on letter pairs:   {logistic(data):.1%}")
        settings = bptt.Settings(
            epochs=options.epochs,
            learning_rate=3e-3,
            batch=32,
            weight_decay=0.02,
            optimizer="adamw",
        )
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            net = bptt.Network(
                data.likelihood,
                inputs=data.inputs,
                cell=options.cell,
                hidden=options.hidden,
                recurrence="hidden",
                dropout=options.dropout,
            )
            began = time.perf_counter()
            done = bptt.fit(net, data, settings, progress=False)
            assert done.score is not None
            print(
                f"{options.cell}, {options.hidden} units, seed {seed}:            "
                f"{1 - done.score:.1%}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        if options.figure is not None:
            figure = bptt.plots.plot_confusion(data.confusion(net), data.classes)
            figure.update_layout(width=820, height=640, paper_bgcolor="white", font_color="black")
            figure.write_image(options.figure, scale=2)


if __name__ == "__main__":
    main()
