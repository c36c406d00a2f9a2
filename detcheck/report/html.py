def render(run):
    return ""
