#!/bin/sh
# A process that looks like a media worker: it writes the file $FAKE_SAYS to the channel, and after the first request
# the file $FAKE_ANSWERS; then it listens until the channel closes. With $FAKE_EXIT it ends at once instead, with
# $FAKE_DEAF it does not mind the end of the channel.
[ -n "$FAKE_EXIT" ] && exit "$FAKE_EXIT"
echo "fake worker $*"
[ -n "$FAKE_SAYS" ] && cat "$FAKE_SAYS" >&4
if [ -n "$FAKE_ANSWERS" ]; then
    head -c 4 <&3 >/dev/null
    cat "$FAKE_ANSWERS" >&4
fi
[ -n "$FAKE_DEAF" ] && exec tail -f /dev/null
exec cat <&3 >/dev/null
