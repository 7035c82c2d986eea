"""Examples that run: files with one idea each, and folders that are small systems; to read, start and copy from."""
