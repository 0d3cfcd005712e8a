"""Tool calls: what a model may or must call, and the calls that its answers hold.

`choice.py` reads what a request says of tools. A model writes calls in the format that it was
trained on (`formats.py`): there, a grammar makes it write one, and text is read as calls.
"""

from nspjax.generate.tools.calls import ReadAnswer as ReadAnswer
from nspjax.generate.tools.calls import ToolCall as ToolCall
from nspjax.generate.tools.choice import Tools as Tools
