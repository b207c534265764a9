#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kubectl, as the cluster's administrator.
set -euo pipefail
. "$(dirname "$0")/env.sh"
exec "$here/in.sh" client "$kubernetes" kubectl --kubeconfig "$run/pki/admin.kubeconfig" "$@"
