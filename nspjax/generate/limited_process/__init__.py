"""Other people's code in a process of its own: one that does not end, or crashes, can be ended.

`parent.py` starts it and speaks to it, `child.py` is what it is made of. They speak through a
socket that is its standard input: each message is its length in 8 bytes and that many bytes.
"""
