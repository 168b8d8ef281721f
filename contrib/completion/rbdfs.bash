# bash completion of rbdfs. Made by contrib/document: what is changed here is lost.

# Nothing here looks at a file system that may hang, and nothing waits for long.

_rbdfs_mounts() {
    local point rest
    while read -r _ _ _ _ point rest; do
        # The kernel writes space, tab, newline and backslash in octal.
        [[ $rest != *' - fuse.rbdfs '* ]] || printf '%b\n' "${point//\\/\\0}"
    done </proc/self/mountinfo
}

# The pools of the cluster that the command line names, as far as it answers at once.
_rbdfs_pools() {
    timeout -s KILL 2 rados "$@" lspools </dev/null
}

_rbdfs_setting() {
    case $1 in
        data_pool=*) _rbdfs_pools "${cluster[@]}" | sed 's/[\\,]/\\&/g; s/^/data_pool=/' ;;
        snapshots=*) printf 'snapshots=%s\n' visible hidden off all ;;
        sector_size=*) printf 'sector_size=%s\n' 512 4096 ;;
        lock=*) printf 'lock=%s\n' exclusive transient auto ;;
        manage=*) printf 'manage=%s\n' snapshots ;;
        cache=*) printf 'cache=%s\n' none writethrough writeback unsafe ;;
        datapath=*) printf 'datapath=%s\n' native python ;;
        *) printf '%s\n' conf= id= keyring= mon_host= cluster= connect_timeout= all_pools snapshots= partitions sector_size= ro lock= allow_other uid= gid= umask= dmask= quiet manage data_pool= object_size= cache= direct_io notrim timeout= abort_on_full datapath= nonempty log= log_level= metrics= metrics_images debug ;;
    esac
}

_rbdfs_switches() {
    case $1 in
        mount) printf '%s\n' --json -h --help -c --conf --id --user -n --name -k --keyring -m --cluster --connect-timeout --all-pools -r --read-only -f --foreground --log-file --log-level --metrics -d --debug -o --version ;;
        umount) printf '%s\n' --timeout --json -h --help ;;
        mounts) printf '%s\n' --json -h --help ;;
        status) printf '%s\n' --json --prometheus -h --help ;;
        stat) printf '%s\n' --json -h --help ;;
        map) printf '%s\n' --json --draw -h --help ;;
        debug) printf '%s\n' --output --json -h --help ;;
        top) printf '%s\n' --interval --once --json -h --help ;;
        restart) printf '%s\n' --json -h --help ;;
    esac
}

# What may stand where $current stands, one a line.
_rbdfs_candidates() {
    case $expected in
        -o)
            local before=${current%"${current##*,}"}
            _rbdfs_setting "${current##*,}" | while IFS= read -r word; do
                printf '%s\n' "$before$word"
            done
            ;;
        ?*) ;;
        *)
            if [[ $current == -* && -z $ended ]]; then
                _rbdfs_switches "${command:-mount}"
            elif [[ ${command:-mount} != mount ]]; then
                [[ ${#found[@]} != 0 || $command != @(umount|status|debug|top|restart) ]] || _rbdfs_mounts
            elif ((${#found[@]} == 0)) && [[ -z $all ]]; then
                [[ $command || $ended ]] || printf '%s\n' mount umount mounts status stat map debug top restart
                _rbdfs_pools "${cluster[@]}"
            fi
            ;;
    esac
}

_rbdfs() {
    local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT}
    # Nothing in a quoted word: a backslash means something else there.
    local closed=$'^([^"\']|"[^"]*"|\'[^\']*\')*$'
    [[ ${line//\\?/} =~ $closed ]] || return
    local current word command='' expected='' ended='' all='' words=() found=() cluster=()
    # Not COMP_WORDS, in which a word ends at each = and :.
    # shellcheck disable=SC2162 # without -r, for spaces behind a backslash
    read -a words <<<"$line"
    [[ $line != *[[:space:]] || $line == *\\[[:space:]] ]] || words+=('')
    current=${words[-1]}
    for word in "${words[@]:1:${#words[@]}-2}"; do
        if [[ $expected ]]; then
            case $expected in
                -c | --conf | --id | --user | -n | --name | -k | --keyring | -m | --cluster) cluster+=("$expected" "$word") ;;
            esac
            expected=''
            continue
        fi
        case $ended$word in
            --) ended=yes ;;
            --all-pools) all=yes ;;
            -c | --conf | --id | --user | -n | --name | -k | --keyring | -m | --cluster | --connect-timeout | --log-file | --log-level | --metrics | -o | --timeout | --output | --interval) expected=$word ;;
            -*) ;;
            mount | umount | mounts | status | stat | map | debug | top | restart)
                if [[ -z $command ]] && ((${#found[@]} == 0)); then command=$word; else found+=("$word"); fi
                ;;
            *) found+=("$word") ;;
        esac
    done
    COMPREPLY=()
    case $expected in
        -c | --conf | -k | --keyring | --log-file | --output) return ;; # a file, as bash does by itself
    esac
    if [[ -z $expected && $command == @(stat|map|debug) && ( $current != -* || $ended ) ]]; then
        return
    fi
    if [[ -z $expected && ${command:-mount} == mount && $current != -* ]] &&
        ((${#found[@]} + ${#all} > 0)); then
        return
    fi
    compopt +o default 2>/dev/null
    # What of the word bash has by itself. It ends at none of these behind a backslash.
    local breaks=${COMP_WORDBREAKS//[[:space:]\"\'<>;|&()]/} candidate
    local before=${current%"${current##*[${breaks:-=}]}"}
    while IFS= read -r candidate; do
        [[ $candidate == "$current"* ]] || continue
        if [[ $expected == -o && $candidate == *= ]]; then
            # A value has to follow, which nobody knows.
            [[ $candidate != "$current" ]] || continue
            compopt -o nospace 2>/dev/null
        fi
        candidate=${candidate#"$before"}
        # Mount points and pools may be called anything.
        printf -v candidate %q "$candidate"
        # A comma is quoted for fear of braces, which are quoted themselves.
        COMPREPLY+=("${candidate//\\,/,}")
    done < <(_rbdfs_candidates 2>/dev/null)
}

complete -o default -F _rbdfs rbdfs
