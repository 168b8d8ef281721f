# fish completion of rbdfs. Made by contrib/document: what is changed here is lost.

# Nothing here looks at a file system that may hang, and nothing waits for long.

function __rbdfs_mounts
    # The kernel writes space, tab, newline and backslash in octal.
    string match -r '^(?:\S+ ){4}\S+(?= .* - fuse\.rbdfs )' </proc/self/mountinfo | string replace -r '.* ' '' | while read -l point
        printf '%b\n' (string replace -a '\\' '\\0' -- $point)
    end
end

# The pools of the cluster that the command line names, as far as it answers at once.
function __rbdfs_pools
    set -l cluster
    set -l switch
    for word in (commandline -opc)
        if test -n "$switch"
            set -a cluster $switch $word
            set switch
        else if contains -- $word @CLUSTER_SWITCHES@
            set switch $word
        end
    end
    timeout -s KILL 2 rados $cluster lspools 2>/dev/null </dev/null
end

function __rbdfs_settings
    set -l before (string replace -r '[^,]*$' '' -- (commandline -ct))
    printf "$before%s\n" @SETTINGS@
    string match -q '*data_pool=*' -- (commandline -ct); and printf "$before"'data_pool=%s\n' (__rbdfs_pools)
end

# The command, "mount" where there is none; "" where one may stand.
function __rbdfs_command
    set -l words (commandline -opc)
    if set -q words[2]; and contains -- $words[2] @COMMANDS@
        echo $words[2]
    else if set -q words[2]
        echo mount
    else
        echo ''
    end
end

# Whether the command is one of these.
function __rbdfs_is
    contains -- "$(__rbdfs_command)" $argv
end

# Whether so many words, without options and what these take, are there behind the command.
function __rbdfs_has
    set -l count 0
    set -l switch
    set -l words (commandline -opc)
    set -e words[1]
    if set -q words[1]; and contains -- $words[1] @COMMANDS@
        set -e words[1]
    end
    for word in $words
        if test -n "$switch"
            set switch
        else if contains -- $word @VALUE_SWITCHES@
            set switch $word
        else if test $word = --all-pools; or not string match -q -- '-*' $word
            set count (math $count + 1)
        end
    end
    test $count -eq $argv[1]
end

complete -c rbdfs -f
@COMPLETE@
complete -c rbdfs -n '__rbdfs_is "" mount; and __rbdfs_has 0' -k -a '(__rbdfs_pools)'
complete -c rbdfs -n '__rbdfs_is mount; and __rbdfs_has 1' -F
complete -c rbdfs -n '__rbdfs_is @MOUNTED@; and __rbdfs_has 0' -a '(__rbdfs_mounts)'
complete -c rbdfs -n '__rbdfs_is @OF_FILES@' -F
