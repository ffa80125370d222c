def on_startup(**_): pass
