//go:build tools

// Package critest pins what the rig builds from the CRI's own tests.
package critest

import _ "sigs.k8s.io/cri-tools/cmd/critest"
