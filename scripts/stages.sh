# shellcheck shell=bash
# Stages of a run: each says what it took and counted, and the end of the run says so of all. Sourced, after lib.sh.
#
# A script that one of the stages starts may have stages of its own: they stand in the same table, in its place.
# The table is kept in a file, tab separated: title, seconds, seconds of CPU, the four counts (or none), how it ended.

stages_scratch=$(mktemp -d)
stages_outermost=
if [ -z "${OXBRIDGE_STAGES:-}" ]; then
    export OXBRIDGE_STAGES=$stages_scratch/table
    : >"$OXBRIDGE_STAGES"
    stages_outermost=1
fi
stage_title=
besides=()
trap stages_end EXIT

# stage TITLE COMMAND…: the run ends with the first that fails.
stage() {
    stage_begins "$1"
    shift
    # The times are those of the pipe's own shell: what runs beside is not in them.
    { "$@"; times >"$stages_scratch/times"; } 2>&1 | tee "$stages_scratch/log"
    stage_ends "$((SECONDS - stage_start))"
}

# beside NAME COMMAND…: starts a program that computes while the next stages mostly wait. It is nice to them, and should
# have a cargo folder of its own: cargo would lock them out.
beside() {
    local name=$1
    shift
    # shellcheck disable=SC2016
    setsid nice -n 19 bash -c '
        into=$1; shift
        "$@" >"$into.log" 2>&1 && times >"$into.times" && echo $SECONDS >"$into.seconds"' \
        beside "$stages_scratch/$name" "$@" &
    besides+=("$!")
    eval "beside_$name=$!"
}

# await NAME TITLE: what runs beside becomes a stage, with its own time.
await() {
    local pid=beside_$1 status=0 other others=()
    stage_begins "$2 (beside the others)"
    wait "${!pid}" || status=$?
    # It has ended: another program may get its number.
    for other in "${besides[@]}"; do
        if [ "$other" != "${!pid}" ]; then others+=("$other"); fi
    done
    besides=(${others[@]+"${others[@]}"})
    cat "$stages_scratch/$1.log"
    [ $status = 0 ] || return $status
    cp "$stages_scratch/$1.log" "$stages_scratch/log"
    cp "$stages_scratch/$1.times" "$stages_scratch/times"
    stage_ends "$(cat "$stages_scratch/$1.seconds")"
}

stage_begins() {
    stage_title=$1
    stage_start=$SECONDS
    stages_before=$(wc -l <"$OXBRIDGE_STAGES")
    rm -f "$stages_scratch/log" "$stages_scratch/times"
    printf '\n== %s\n' "$stage_title"
}

# stage_ends SECONDS: what has stages inside is in the table by them.
stage_ends() {
    local counts cpu
    counts=$(counts_of "$stages_scratch/log")
    cpu=$(cpu_seconds "$stages_scratch/times")
    # shellcheck disable=SC2086
    printf -- '-- %s: %s s, %s s of CPU%s\n' "$stage_title" "$1" "$cpu" "${counts:+; $(in_words $counts)}"
    if [ "$stages_before" = "$(wc -l <"$OXBRIDGE_STAGES")" ]; then
        printf '%s\t%s\t%s\t%s\t%s\n' "$stage_title" "$1" "$cpu" "$counts" passed >>"$OXBRIDGE_STAGES"
    fi
    stage_title=
}

# cpu_seconds FILE: of all processes that ended below the shell that wrote it by `times`.
cpu_seconds() {
    awk 'function of(t) { split(t, p, /[ms]/); return p[1] * 60 + p[2] } { sum += of($1) + of($2) } END { printf "%.0f", sum }' "$1"
}

# However the run ends: nothing goes on beside it, and the table is told.
# shellcheck disable=SC2317
stages_end() {
    local status=$? pid
    # Of timeout's and of make's signal, one is enough.
    trap '' INT TERM
    for pid in ${besides[@]+"${besides[@]}"}; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    if [ -n "$stage_title" ] && ! tail -n 1 "$OXBRIDGE_STAGES" | grep -q FAILED; then
        local counts=
        if [ -e "$stages_scratch/log" ]; then counts=$(counts_of "$stages_scratch/log"); fi
        printf '%s\t%s\t\t%s\t%s\n' "$stage_title" $((SECONDS - stage_start)) "$counts" FAILED >>"$OXBRIDGE_STAGES"
    fi
    if [ -n "$stages_outermost" ]; then
        stages_table
        if [ -n "$stage_title" ]; then warn "FAILED: $(sed -n 's/\t.*FAILED$//p' "$OXBRIDGE_STAGES")"; fi
    fi
    rm -rf "$stages_scratch"
    exit $status
}

stages_table() {
    say
    awk -F'\t' -v total="$SECONDS" '
        BEGIN {
            line = "%-64s %7s %7s %7s %7s %7s %9s  %s\n"
            printf line, "stage", "s", "CPU s", "passed", "failed", "skipped", "expected", ""
        }
        {
            split($4 == "" ? "- - - -" : $4, count, " ")
            printf line, $1, $2, $3, count[1], count[2], count[3], count[4], $5 == "passed" ? "" : $5
            cpu += $3
            for (i in count) sum[i] += count[i]
        }
        END { printf line, "all", total, cpu, sum[1] + 0, sum[2] + 0, sum[3] + 0, sum[4] + 0, "" }
    ' "$OXBRIDGE_STAGES"
    say "(expected: failures of the reference that the tests know; CPU: of programs, not of the kernel's own threads)"
}
