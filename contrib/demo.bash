# What contrib/quickstart and contrib/tour share: sourced by them, with $program set to their name.
# shellcheck shell=bash

fail() {
    echo "$program: $*" >&2
    exit 1
}

# Prints a command, runs it, prints what it says, without the banner of e2fsprogs and empty lines.
show() {
    echo "\$ $1"
    bash -o pipefail -c "$1" 2>&1 | sed '/^\(debugfs\|e2fsck\) [0-9.]* (/d; /^$/d'
}

# As show, for a command that must fail, and say $2.
show_failing() {
    local output
    if output=$(show "$1"); then
        echo "$output"
        fail "this should have failed: $1"
    fi
    echo "$output"
    [[ $output == *"$2"* ]] || fail "it failed, but not with: $2"
}

# Sets where everything lies: $demo as it was given (default $1), $q quoted for a shell.
place() {
    demo=${demo:-$1}
    q=$(printf %q "$demo")
    # Where Debian keeps mke2fs and debugfs, which ordinary users may run as well.
    export PATH=$PATH:/usr/sbin:/sbin
    # Absolute, because daemons leave the working directory.
    CEPH_CONF=$(realpath -m "$demo")/cluster/ceph.conf
    export CEPH_CONF LC_ALL=C.UTF-8
    if [[ $demo == /* ]]; then
        shown_conf=$q/cluster/ceph.conf
    else
        shown_conf="\$PWD/$q/cluster/ceph.conf"
    fi
}

show_start_of_cluster() {
    show "contrib/cluster start $q/cluster >/dev/null"
    echo "\$ export CEPH_CONF=$shown_conf"
}

# As show, for a command that starts rbdfs.
show_mount() (
    # In a subshell, or this script would take its own children for servers.
    RBDFS_DEMO=$(realpath "$demo")
    export RBDFS_DEMO
    show "$1"
)

# The servers of this demo, whatever has become of the mount: they carry its directory in their environment.
servers() {
    grep -lzxFs "RBDFS_DEMO=$(realpath -m "$demo")" /proc/[0-9]*/environ | cut -d/ -f3 || true
}

# Polls a condition, for 20 s at most.
eventually() {
    local deadline=$((SECONDS + 20))
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

no_server() {
    [[ -z $(servers) ]]
}

mounted() {
    # From the kernel's table: a dead mount cannot be looked at, and is one.
    findmnt --noheadings --mountpoint "$(realpath -ms "$demo/$1")" >/dev/null
}

# Ends the mounts $1... of the demo, its servers and its cluster; UNMOUNT_LAZY=-z detaches what is in use.
end_of_demo() {
    local name
    for name in "$@"; do
        if mounted "$name"; then
            fusermount3 -u ${UNMOUNT_LAZY:+"$UNMOUNT_LAZY"} "$demo/$name" || return 1
        fi
    done
    # Before the cluster: a server ends when it has closed its images.
    if ! eventually no_server; then
        servers | xargs -r kill -KILL
        eventually no_server || return 1
    fi
    contrib/cluster stop "$demo/cluster" >/dev/null || return 1
}

# Removes the directories $1... and the demo's own, which are to be empty.
remove_directories() {
    local name
    for name in "$@" .; do
        if [[ -d $demo/$name ]]; then
            rmdir "$(realpath -ms "$demo/$name")" || return 1
        fi
    done
}

# At the exit of a script that has failed: `stop` ends and removes what was started.
give_up() {
    local code=$?
    trap - EXIT
    if ((code)); then
        echo "$program: it failed: ending and removing what was started" >&2
        UNMOUNT_LAZY=-z stop || echo "$program: some of it is left in $demo" >&2
        # Whatever the signal or the command said: it failed.
        exit 1
    fi
}

# From here on, whatever ends the script early also removes what it has started.
give_up_on_failure() {
    trap give_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
