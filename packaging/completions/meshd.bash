# Completion of meshd in bash.
_meshd() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    case $previous in
        --config) compopt -o default; COMPREPLY=() ;;
        --state-dir | --runtime-dir) compopt -o dirnames; COMPREPLY=() ;;
        --name) COMPREPLY=() ;;
        --log-level) mapfile -t COMPREPLY < <(compgen -W "debug info warning error" -- "$current") ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W "console json journal" -- "$current") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "--config --state-dir --runtime-dir --name --log-level --log-format
               --check-config --version --help" -- "$current") ;;
    esac
}
complete -F _meshd meshd
