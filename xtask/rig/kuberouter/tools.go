//go:build tools

// Package kuberouter pins what the rig builds from kube-router.
package kuberouter

import _ "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"
