"""The line: frames in, exactly one inspection per frame out, and figures about how it went."""
