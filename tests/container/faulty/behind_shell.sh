#!/bin/sh
# The fault: without exec the shell stays process 1, and passes no signal on.
"/faulty/bin/$(basename "$0")"
exit $?
