"""The options of the commands: from parameters of the library, shared by commands, in a configuration file."""
