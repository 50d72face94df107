//go:build tools

// Package coredns pins what the rig builds from CoreDNS.
package coredns

import _ "github.com/coredns/coredns"
