from . import kernel as kernel
from .errors import BpttError as BpttError
from .gradient.backward import backward as backward
from .gradient.plan import Plan as Plan
from .gradient.plan import plan as plan
from .model.encodings import Features as Features
from .model.encodings import Tokens as Tokens
from .model.layers import GRU as GRU
from .model.layers import LSTM as LSTM
from .model.layers import RNN as RNN
from .model.layers import accelerate as accelerate
from .model.likelihoods import Bernoulli as Bernoulli
from .model.likelihoods import Categorical as Categorical
from .model.likelihoods import Gaussian as Gaussian
from .model.likelihoods import Likelihood as Likelihood
from .model.network import Network as Network
from .model.state import Output as Output
from .model.state import State as State
from .training.data import Text as Text
from .training.data import read_text as read_text
from .training.fit import Interrupted as Interrupted
from .training.fit import fit as fit
from .training.fit import resume as resume
from .training.run import Run as Run
from .training.settings import Settings as Settings

__version__: str
