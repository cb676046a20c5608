#compdef meshd
# Completion of meshd in zsh.
_arguments \
    '--config[configuration (TOML); none is needed]:file:_files' \
    '--state-dir[identity and messages]:directory:_directories' \
    '--runtime-dir[where the socket goes]:directory:_directories' \
    "--name[this device's name]:name:" \
    '--log-level[the least level that is logged]:level:(debug info warning error)' \
    '--log-format[how the log is written]:format:(console json journal)' \
    '--check-config[read the configuration, and stop]' \
    '--version[print the version, and stop]' \
    '(-h --help)'{-h,--help}'[print the options, and stop]'
