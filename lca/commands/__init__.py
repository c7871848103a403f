"""The subcommands of `lca`, one file each; a new one is a new file and an entry here."""

from lca.commands.check import CHECK
from lca.commands.cite import CITE
from lca.commands.command import Command
from lca.commands.demo import DEMO
from lca.commands.estimators import ESTIMATORS_COMMAND
from lca.commands.report import REPORT

COMMANDS: tuple[Command, ...] = (DEMO, REPORT, CHECK, ESTIMATORS_COMMAND, CITE)
