"""The public names of normbench and their types."""

from normbench import norms as norms
from normbench.api import config as config
from normbench.api import load as load
from normbench.api import load_results as load_results
from normbench.api import run as run
from normbench.api import sweep as sweep
from normbench.errors import NormbenchError as NormbenchError
from normbench.results.groups import Result as Result
from normbench.settings.schema import Config as Config
from normbench.sweeps.runs import Runs as Runs

__version__: str
