"""The playground: walk, speak, edit and fork a world in the browser (`spatia view`).

`session` is the playground without a screen: one environment, a tree of moments, one generation at a time.
`panels` and `stage` show it through viser; `guard` and `limits` decide who may talk to it. Nothing here is
imported by the rest of the package.
"""
