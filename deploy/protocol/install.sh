#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Gets an attacker into build/protocol, unless it is there. The Debian packages
# that this takes: deploy/packages.sh protocol.
# usage: deploy/protocol/install.sh bogo|python
set -eu
mkdir -p "$(dirname "$0")/../../build/protocol"
cd "$(dirname "$0")/../../build/protocol"

# BoringSSL's runner for other libraries' tests is in Debian's source package.
bogo() {
	[ ! -x bogo/runner ] || return 0
	mkdir -p apt/lists/partial apt/cache bogo
	. /etc/os-release
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $VERSION_CODENAME main" >apt/sources.list
	set -- -qq -o Dir::Etc::sourcelist="$PWD/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt/cache" -o APT::Sandbox::User=root
	apt-get "$@" update
	(cd apt && apt-get "$@" source --download-only android-platform-external-boringssl)
	tar xJf apt/android-platform-external-boringssl_*.orig.tar.xz -C bogo --strip-components=1
	(cd bogo/src/ssl/test/runner && go test -c -o ../../../../runner .)
	rm -rf apt
}

python() {
	[ ! -e python/complete-3 ] || return 0
	python3 -m venv python
	python/bin/pip install -q sslyze==6.3.1 tlslite-ng==0.9.0b2 kyber-py==1.2.0 dilithium-py==1.4.0
	touch python/complete-3
}

"$1"
