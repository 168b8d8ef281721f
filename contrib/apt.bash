# How the scripts here install packages: sourced by them, with a fail() of their own.
# shellcheck shell=bash

# Runs apt-get, which asks nothing, with the arguments behind the first, the file for what it says.
apt_get() {
    local log=$1
    shift
    DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null || {
        tail -n 20 "$log" >&2
        fail "apt-get $1 failed; the whole log is $log"
    }
}
