"""A reproducible companion to Lin et al. (2019), dual transfer learning for facial expression recognition.

`import dualtl_lib as dtl` gives the names that `__init__.pyi` lists; a module is imported when one of its
names is first used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
