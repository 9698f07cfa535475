"""bptt generate: what a trained network writes, or expects of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bptt.cli.options import MOST_SEED, TEMPERATURE, comma_separated
from bptt.errors import BpttError, counted, printable, require_whole

if TYPE_CHECKING:
    from bptt.data.texts.vocabulary import Vocabulary
    from bptt.model.network import Network
    from bptt.training.runs.run import Run


def generate(
    run: Path,
    /,
    *,
    prompt: str = "",
    steps: int = 500,
    temperature: float = TEMPERATURE,
    seed: int | None = None,
    out: Path | None = None,
    data: Path | None = None,
    future: Path | None = None,
    quantiles: Annotated[tuple[float, ...], comma_separated(float)] = (0.05, 0.95),
    last: bool = False,
) -> None:
    """Let a trained network write, or forecast the table that it was trained on.

    Parameters
    ----------
    run
        The folder of the run.
    prompt
        A text to continue.
    steps
        How many tokens to write (characters, bytes, or as the run has them), or rows to forecast.
    temperature
        Below 1 makes likely characters likelier; 0 always takes the likeliest.
    seed
        Decides the sample; by default every call gives another.
    out
        Of a table: where to write the forecast (.csv), with a figure beside it (.html); by default
        forecast.csv in the run's folder.
    data
        Of a table: where it is now, if it was moved, or a newer one with the same columns.
    future
        Of a table: one that has its inputs for the steps ahead.
    quantiles
        Of a table: which shares of the sampled paths are to lie below what is written.
    last
        Take the last weights, and not those whose validation was the best.
    """
    from bptt.training.runs.run import TRAINED_ON, Run  # noqa: PLC0415

    saved_run = Run.open(run)
    if seed is not None:
        require_whole("seed", seed, 0, MOST_SEED)
    if saved_run.kind == "text":
        net = saved_run.network(last=last).eval()
        write_sample(net, saved_run.vocabulary, prompt, steps, temperature, seed)
    elif saved_run.kind == "table":
        out = out or saved_run.path / "forecast.csv"
        ahead = {"steps": steps, "future": future, "quantiles": quantiles, "seed": seed}
        _forecast(saved_run, out, data, ahead, last=last)
    else:
        raise BpttError(
            f"{run} was trained on {TRAINED_ON[saved_run.kind]}; expected a text or a table: "
            "in Python, bptt.Run.open(...).network().generate(...) runs it freely"
        )


def _forecast(
    run: Run, out: Path, data: Path | None, options: dict[str, Any], *, last: bool
) -> None:
    from bptt.forecasting.forecast import forecast  # noqa: PLC0415
    from bptt.report.series_plots import plot_forecast, write_figure  # noqa: PLC0415
    from bptt.training.runs import files  # noqa: PLC0415

    files.require_ours(out, files.FORECAST)
    figure = out.with_suffix(".html")
    if figure == out:
        raise BpttError(f"--out is {out}, but the figure goes there; expected a .csv file")
    files.require_ours(figure, files.PAGE)
    table = run.read_table(data or run.table_path())
    net = run.network(last=last).eval()
    ahead = forecast(net, table, **options)
    ahead.write(out)
    write_figure(plot_forecast(table, ahead), figure)
    if ahead.note:
        print(printable(ahead.note))
    steps = counted(options["steps"], "step")
    verb = "is" if options["steps"] == 1 else "are"
    print(f"{steps} ahead {verb} in {printable(out)}; the figure is {printable(figure)}")


def write_sample(
    net: Network,
    vocabulary: Vocabulary,
    prompt: str,
    steps: int,
    temperature: float,
    seed: int | None,
) -> None:
    """Print what the network writes, as it comes."""
    import torch  # noqa: PLC0415

    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    vocabulary.require("the prompt", prompt)
    prompt_tokens = vocabulary.encode(prompt).unsqueeze(1) if prompt else None
    tokens = net.stream(steps, prompt=prompt_tokens, temperature=temperature, generator=generator)
    print(prompt, end="")
    for piece in vocabulary.decode_stream(y for chunk in tokens for y in chunk[:, 0].tolist()):
        print(piece, end="", flush=True)
    print()
