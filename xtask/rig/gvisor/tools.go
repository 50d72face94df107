//go:build tools

// Package gvisor pins what the rig builds from gVisor.
package gvisor

import (
	_ "gvisor.dev/gvisor/runsc"
	_ "gvisor.dev/gvisor/shim"
)
