"""Bad and odd uploads by the thousand, always the same ones: what to send, and what may come of it.

`case` says what a case is; `pictures`, `recordings`, `fields` and `forms` make them; `server` is what they are sent to.
"""
