"""The subcommands of `lca`, one file each; a new one is a new file and an entry here."""

from lca._commands.check import CHECK
from lca._commands.cite import CITE
from lca._commands.command import Command
from lca._commands.compare import COMPARE
from lca._commands.completion import completion_of
from lca._commands.demo import DEMO
from lca._commands.estimators import ESTIMATORS_COMMAND
from lca._commands.findings import FINDINGS
from lca._commands.record import RECORD_COMMAND
from lca._commands.replay import REPLAY
from lca._commands.report import REPORT

_OTHERS = (DEMO, FINDINGS, REPORT, COMPARE, REPLAY, RECORD_COMMAND, CHECK, ESTIMATORS_COMMAND, CITE)
COMMANDS: tuple[Command, ...] = (*_OTHERS, completion_of(_OTHERS))
