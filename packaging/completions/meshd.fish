# Completion of meshd in fish.
complete -c meshd -f
complete -c meshd -l config -r -F -d 'configuration (TOML); none is needed'
complete -c meshd -l state-dir -x -a '(__fish_complete_directories)' -d 'identity and messages'
complete -c meshd -l runtime-dir -x -a '(__fish_complete_directories)' -d 'where the socket goes'
complete -c meshd -l name -x -d 'this device\'s name'
complete -c meshd -l log-level -x -a 'debug info warning error' -d 'the least level that is logged'
complete -c meshd -l log-format -x -a 'console json journal' -d 'how the log is written'
complete -c meshd -l check-config -d 'read the configuration, and stop'
complete -c meshd -l version -d 'print the version, and stop'
complete -c meshd -s h -l help -d 'print the options, and stop'
