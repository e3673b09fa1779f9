def reckon(measured, project, *, quick):
    return {}
