def write_all(out):
    pass
