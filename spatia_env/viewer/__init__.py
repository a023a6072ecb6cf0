"""The playground in the browser (`spatia view`), pages of episodes (`spatia export-html`) and `spatia demo`.

May import everything below it (`env` and further down); nothing imports it. `session` is the playground without a
screen, `app` shows it through viser, `server` and `guard` decide who may talk to it.
"""
