"""`treeserve chat`: a chat in the terminal, with a server, through either door."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TextIO

from treeserve.commands.chat_doors import Door, GrpcDoor, HttpDoor, is_cut
from treeserve.commands.connection_options import add_connection_options, connect, read_key
from treeserve.errors import ConfigError, TreeserveError
from treeserve.server.config import DEFAULT_GRPC_ADDRESS
from treeserve.types import Message, SamplingParams

_DESCRIPTION = """\
Chat with a model that a server serves. Its tokenizer needs a chat template.

  treeserve chat                                        gRPC, 127.0.0.1:50051
  treeserve chat --server host:50051 --tls-ca ca.pem --api-key-file key
  treeserve chat --url http://127.0.0.1:8000            HTTP; any server of this API
  treeserve chat --system "You are terse." --temperature 0.7

Ctrl-C stops an answer; what has come of it stays in the chat. Ctrl-D ends the chat.
"""
_HELP = """\
/reset          forget all turns but the system's
/system TEXT    begin again, with another system turn; without TEXT: with none
/help           this
/quit           end, as Ctrl-D does"""
_PROMPT = "> "


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "chat", help="chat with a server in the terminal", description=_DESCRIPTION
    )
    parser.set_defaults(run=run, prog=parser.prog)
    add = parser.add_argument
    add("--system", metavar="TEXT", help="the first turn; default: none")
    add("--temperature", type=float, default=1.0, metavar="T", help="default: %(default)g")
    add("--max-tokens", type=int, default=512, metavar="N", help="of an answer; default: 512")
    add("--seed", type=int, metavar="N", help="default: a random one for each answer")
    add("--url", metavar="URL", help="ask over HTTP there, and not over gRPC")
    add_connection_options(parser)


def run(args: argparse.Namespace) -> int:
    """Chat until the input ends; 1 if the last turn failed."""
    params = SamplingParams(
        temperature=args.temperature, max_tokens=args.max_tokens, seed=args.seed
    )
    with _door(args) as door:
        return _Talk(door, params, args.system, sys.stdout, sys.stderr).run()


@contextmanager
def _door(args: argparse.Namespace) -> Iterator[Door]:
    if args.url is None:
        args.server = args.server or DEFAULT_GRPC_ADDRESS
        with connect(args) as client:
            yield GrpcDoor(client)
        return
    for name in ("server", "tls_cert", "tls_key"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: must not be given with --url")
    file = args.api_key_file
    yield HttpDoor(
        args.url,
        os.environ.get("TREESERVE_API_KEY") if file is None else read_key(file),
        insecure=bool(args.insecure),
        tls_ca=args.tls_ca,
        timeout_seconds=args.timeout,
    )


class _Talk:
    """The turns so far.

    Args:
        door: Answers.
        params: Of every answer.
        system: The first turn; None: there is none.
        out: Shows answers.
        notes: Shows everything else.
    """

    def __init__(
        self, door: Door, params: SamplingParams, system: str | None, out: TextIO, notes: TextIO
    ) -> None:
        self._door = door
        self._params = params
        self._system = system
        self._out = out
        self._notes = notes
        self._turns: list[Message] = []
        self._status = 0
        self._is_tty = sys.stdin.isatty()

    def run(self) -> int:
        if self._is_tty:
            self._import_line_editing()
            self._note("/help says what else there is; Ctrl-D ends the chat")
        while (line := self._read()) is not None:
            if line.startswith("/"):
                if not self._obey(line):
                    break
            elif line:
                self._ask(line)
        return self._status

    def _import_line_editing(self) -> None:
        try:
            import readline  # noqa: F401  # input() uses it where it has been imported
        except ImportError:
            self._note("without line editing: this Python has no readline")

    def _read(self) -> str | None:
        """None: the input has ended."""
        try:
            return input(_PROMPT if self._is_tty else "").strip()
        except EOFError:
            return None

    def _obey(self, line: str) -> bool:
        """Whether the chat goes on."""
        command, _, text = line.partition(" ")
        match command:
            case "/reset":
                self._turns.clear()
            case "/system":
                self._system = text.strip() or None
                self._turns.clear()
            case "/help":
                self._note(_HELP)
            case "/quit":
                return False
            case _:
                self._note(f"{command} is no command; /help names them")
        return True

    def _ask(self, line: str) -> None:
        asked = Message("user", line)
        system = [] if self._system is None else [Message("system", self._system)]
        pieces: list[str] = []
        ending = None
        try:
            stream = self._door.answer([*system, *self._turns, asked], self._params)
            with closing(stream) as answer:
                for piece in answer:
                    pieces.append(piece.text)
                    ending = piece.finish_reason or ending
                    self._show(piece.text)
        except KeyboardInterrupt:
            ending = "you stopped it"
        except TreeserveError as error:
            self._show("\n" if pieces else "")
            self._note(f"error: {error}")
            self._status = 1
            return
        self._status = 0
        self._show("\n")
        if is_cut(ending):
            self._note(f"(ended: {ending})")
        self._turns += [asked, Message("assistant", "".join(pieces))]

    def _show(self, text: str) -> None:
        """Nothing that a model draws may move the cursor or do worse."""
        shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
        self._out.write(shown)
        self._out.flush()

    def _note(self, text: str) -> None:
        print(text, file=self._notes, flush=True)
