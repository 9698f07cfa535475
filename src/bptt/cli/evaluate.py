"""bptt evaluate: how far off the forecasts of a table are, at the horizon that counts."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table as Grid

from bptt.cli.console import Console
from bptt.cli.options import MOST_SEED
from bptt.errors import printable, require_whole


def evaluate(
    run: Path,
    /,
    *,
    horizon: int,
    origins: int = 20,
    season: int | None = None,
    data: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
    last: bool = False,
) -> None:
    """Forecast from many origins in what a run was not trained on, and compare with the truth.

    Beside the network stand the value before, the season before, and an autoregression.

    Parameters
    ----------
    run
        The folder of a run that was trained on a table.
    horizon
        How many steps each forecast has.
    origins
        From how many steps of each series to forecast.
    season
        How many steps a season has; by default what the times say: a day of hours, a week of days,
        a year of months.
    data
        Where the table is now, if it was moved, or a newer one with the same columns.
    seed
        Decides the sampled paths.
    out
        Where to write the page; by default evaluation.html in the run's folder.
    last
        Take the last weights, and not those whose validation was the best.
    """
    from bptt.forecasting.backtest import backtest  # noqa: PLC0415
    from bptt.report.backtests import sentence, write_backtest  # noqa: PLC0415
    from bptt.training.runs import files  # noqa: PLC0415
    from bptt.training.runs.run import Run  # noqa: PLC0415

    require_whole("seed", seed, 0, MOST_SEED)
    of = Run.open(run)
    out = out or of.path / "evaluation.html"
    files.require_ours(out, files.PAGE)
    of.require_table()
    table = of.read_table(data or of.table_path())
    net = of.network(last=last).eval()
    result = backtest(net, table, horizon, origins=origins, season=season, seed=seed)
    heads, *rows = result.rows()
    grid = Grid(*heads, box=None, pad_edge=False)
    for column in grid.columns[2:]:
        column.justify = "right"
    for row in rows:
        grid.add_row(*map(printable, row))
    console = Console()
    console.print(sentence(result), soft_wrap=True)
    console.print(grid)
    write_backtest(out, result, of.path.name)
    print(f"\nThe pictures are in {printable(out)}")
