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
        else if contains -- $word -c --conf --id --user -n --name -k --keyring -m --cluster
            set switch $word
        end
    end
    timeout -s KILL 2 rados $cluster lspools 2>/dev/null </dev/null
end

function __rbdfs_settings
    set -l before (string replace -r '[^,]*$' '' -- (commandline -ct))
    printf "$before%s\n" conf= id= keyring= mon_host= cluster= connect_timeout= all_pools snapshots= partitions sector_size= ro lock= allow_other uid= gid= umask= dmask= quiet manage data_pool= object_size= cache= direct_io notrim timeout= abort_on_full datapath= nonempty log= log_level= metrics= metrics_images debug snapshots=visible snapshots=hidden snapshots=off snapshots=all sector_size=512 sector_size=4096 lock=exclusive lock=transient lock=auto manage=snapshots cache=none cache=writethrough cache=writeback cache=unsafe datapath=native datapath=python
    string match -q '*data_pool=*' -- (commandline -ct); and printf "$before"'data_pool=%s\n' (__rbdfs_pools)
end

# The command, "mount" where there is none; "" where one may stand.
function __rbdfs_command
    set -l words (commandline -opc)
    if set -q words[2]; and contains -- $words[2] mount umount mounts status stat map debug top restart
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
    if set -q words[1]; and contains -- $words[1] mount umount mounts status stat map debug top restart
        set -e words[1]
    end
    for word in $words
        if test -n "$switch"
            set switch
        else if contains -- $word -c --conf --id --user -n --name -k --keyring -m --cluster --connect-timeout --log-file --log-level --metrics -o --timeout --output --interval
            set switch $word
        else if test $word = --all-pools; or not string match -q -- '-*' $word
            set count (math $count + 1)
        end
    end
    test $count -eq $argv[1]
end

complete -c rbdfs -f
complete -c rbdfs -n '__rbdfs_is ""' -a mount -d 'mount a pool, a namespace of it, all pools, or one image'
complete -c rbdfs -n '__rbdfs_is ""' -a umount -d 'unmount, and wait until all is written and closed'
complete -c rbdfs -n '__rbdfs_is ""' -a mounts -d 'list the mounts of rbdfs on this host'
complete -c rbdfs -n '__rbdfs_is ""' -a status -d 'tell what serves a mount, and which files are open'
complete -c rbdfs -n '__rbdfs_is ""' -a stat -d 'tell all that is known of a file of a mount'
complete -c rbdfs -n '__rbdfs_is ""' -a map -d 'show where a file of a mount has data'
complete -c rbdfs -n '__rbdfs_is ""' -a debug -d 'write all that tells how a mount is doing to one archive, and say what looks wrong'
complete -c rbdfs -n '__rbdfs_is ""' -a top -d 'show who loads the cluster: requests, bytes and latency of each image, as top(1) does'
complete -c rbdfs -n '__rbdfs_is ""' -a restart -d 'serve a mount with what is installed now; open files stay open'
complete -c rbdfs -n '__rbdfs_is "" mount' -l json -d 'say on stdout what is mounted'
complete -c rbdfs -n '__rbdfs_is "" mount' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is "" mount' -s c -l conf -r -F -d 'the configuration file'
complete -c rbdfs -n '__rbdfs_is "" mount' -l id -l user -s n -l name -x -d 'connect as client.ID'
complete -c rbdfs -n '__rbdfs_is "" mount' -s k -l keyring -r -F -d 'the file with the key'
complete -c rbdfs -n '__rbdfs_is "" mount' -s m -x -d 'addresses of the monitors'
complete -c rbdfs -n '__rbdfs_is "" mount' -l cluster -x -d 'stands in Ceph\'s default paths'
complete -c rbdfs -n '__rbdfs_is "" mount' -l connect-timeout -x -d 'how long reaching the cluster may take'
complete -c rbdfs -n '__rbdfs_is "" mount' -l all-pools -d 'every pool for rbd'
complete -c rbdfs -n '__rbdfs_is "" mount' -s r -l read-only -d 'nothing can be written'
complete -c rbdfs -n '__rbdfs_is "" mount' -s f -l foreground -d 'do not go to the background'
complete -c rbdfs -n '__rbdfs_is "" mount' -l log-file -r -F -d 'the log'
complete -c rbdfs -n '__rbdfs_is "" mount' -l log-level -x -d 'the least that is logged'
complete -c rbdfs -n '__rbdfs_is "" mount' -l metrics -x -d 'let Prometheus scrape the mount'
complete -c rbdfs -n '__rbdfs_is "" mount' -s d -l debug -d 'as --log-level debug'
complete -c rbdfs -n '__rbdfs_is "" mount' -s o -x -a '(__rbdfs_settings)' -d 'mount options'
complete -c rbdfs -n '__rbdfs_is "" mount' -l version -d 'show the version'
complete -c rbdfs -n '__rbdfs_is umount' -l timeout -x -d 'how long to wait'
complete -c rbdfs -n '__rbdfs_is umount' -l json -d 'say on stdout what was unmounted'
complete -c rbdfs -n '__rbdfs_is umount' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is mounts' -l json -d 'a list'
complete -c rbdfs -n '__rbdfs_is mounts' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is status' -l json -d 'accepted'
complete -c rbdfs -n '__rbdfs_is status' -l prometheus -d 'the metrics instead'
complete -c rbdfs -n '__rbdfs_is status' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is stat' -l json -d 'an object'
complete -c rbdfs -n '__rbdfs_is stat' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is map' -l json -d 'as qemu-img map --output=json has them for a raw image'
complete -c rbdfs -n '__rbdfs_is map' -l draw -d 'draw the file'
complete -c rbdfs -n '__rbdfs_is map' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is debug' -l output -r -F -d 'where to write it'
complete -c rbdfs -n '__rbdfs_is debug' -l json -d 'say on stdout what is written'
complete -c rbdfs -n '__rbdfs_is debug' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is top' -l interval -x -d 'how long between two looks'
complete -c rbdfs -n '__rbdfs_is top' -l once -d 'look for one interval'
complete -c rbdfs -n '__rbdfs_is top' -l json -d 'as --once'
complete -c rbdfs -n '__rbdfs_is top' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is restart' -l json -d 'accepted'
complete -c rbdfs -n '__rbdfs_is restart' -s h -l help -d 'show this help'
complete -c rbdfs -n '__rbdfs_is "" mount; and __rbdfs_has 0' -k -a '(__rbdfs_pools)'
complete -c rbdfs -n '__rbdfs_is mount; and __rbdfs_has 1' -F
complete -c rbdfs -n '__rbdfs_is umount status debug top restart; and __rbdfs_has 0' -a '(__rbdfs_mounts)'
complete -c rbdfs -n '__rbdfs_is stat map debug' -F
