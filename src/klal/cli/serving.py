"""`klal serve`, and `klal sync --watch`: the two commands that go on until they are told to stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from klal.cli.options import Json, home
from klal.cli.output import Exit, Output
from klal.cli.text import counted, shown
from klal.errors import UsageError
from klal.reports import Standing

serving = typer.Typer()


@serving.command()
def serve(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Each of another space.")
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8765,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", exists=True, dir_okay=False, help="Tokens that let in whoever shows one."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="URL", help="Another hub to stay connected to.")
    ] = None,
    peer_token_file: Annotated[
        Path | None, typer.Option("--peer-token-file", exists=True, dir_okay=False, help="A token to show to peers.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", metavar="ORIGIN", help="Let in pages of this origin.")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option("--proxy", metavar="ADDRESS", help="Take this proxy's word on who connects.")
    ] = None,
    per_member: Annotated[int, typer.Option("--per-member", min=1, help="Connections of one member at once.")] = 8,
    per_address: Annotated[int, typer.Option("--per-address", min=1, help="Connections of one address.")] = 64,
    per_space: Annotated[int, typer.Option("--per-space", min=1, help="Connections to one space.")] = 2000,
    as_json: Json = False,
) -> int:
    """Serve files as a hub, which others sync with by its URL.

    It goes on until SIGTERM or Ctrl-C, and then finishes what is running. Its log, lines of JSON, goes to stderr.
    """
    import klal as library

    out = Output(as_json=as_json)

    def started(url: str, spaces: Sequence[str]) -> None:
        if as_json:
            out.json_line({"url": url, "spaces": list(spaces)})
        else:
            for space in spaces:
                out.say(Text.assemble("serving ", (f"{url}/{space[:16]}", "bold")))
        out.flush()

    library.serve(
        *files,
        host=host,
        port=port,
        token_file=token_file,
        peers=peer or (),
        peer_token="" if peer_token_file is None else token_in(peer_token_file),
        origins=origin or (),
        proxies=proxy or (),
        per_member=per_member,
        per_address=per_address,
        per_space=per_space,
        home=home(),
        on_start=started,
    )
    return Exit.DONE


def token_in(path: Path) -> str:
    """Return the one token in a file.

    Raises:
        UsageError: It cannot be read, or does not hold exactly one.
    """
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a token: {error}") from error
    if len(words) != 1:
        raise UsageError(f"{path} holds {counted(len(words), 'word')}, want one token")
    return words[0]


def stay(file: Path, urls: Sequence[str], token: str, out: Output) -> int:
    """Stay connected to hubs until Ctrl-C or SIGTERM, and say how it stands with each."""
    from klal import api

    last: dict[str, Standing] = {}

    def told(standing: Standing) -> None:
        if out.as_json:
            out.json_line(standing.to_json())
        elif last.get(standing.url) != standing:
            out.say(line_of(standing))
        last[standing.url] = standing
        out.flush()

    api.stay(file, *urls, token=token, home=home(), told=told)
    return Exit.DONE


def line_of(standing: Standing) -> Text:
    """Return how it stands with one hub, as one line."""
    style = {"in step": "bold green", "waiting": "bold yellow", "ended": "bold red"}.get(standing.state, "bold")
    line = Text.assemble((standing.state, style), f" {shown(standing.url)}")
    if standing.state == "waiting":
        line.append(f", again in {standing.again_in_s:.1f} s")
    if standing.received_count:
        line.append(f", {counted(standing.received_count, 'change')} came")
    if standing.why:
        line.append(f": {shown(standing.why)}")
    return line
