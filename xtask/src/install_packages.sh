#!/bin/sh
# Installs Debian packages without letting any of them start a service.
# Usage, as root: install_packages.sh POLICY_FILE PACKAGE...
# POLICY_FILE (/usr/sbin/policy-rc.d) is asked by Debian before a service is started; ours says no (101) for as
# long as this runs. What was there before is put back, also after a failure or Ctrl+C, and, where a former run
# was killed, by the next one.
set -eu
policy=$1
shift
kept=$policy.kept-by-ringcast

restore() {
    rm -f "$policy"
    if [ -e "$kept" ]; then mv "$kept" "$policy"; fi
}
if [ ! -e "$kept" ] && [ -e "$policy" ] && ! grep -q 'ringcast set-up' "$policy"; then
    mv "$policy" "$kept"
fi
trap restore EXIT
trap 'exit 130' INT TERM HUP
printf '#!/bin/sh\n# ringcast set-up: no service starts while packages are installed\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
