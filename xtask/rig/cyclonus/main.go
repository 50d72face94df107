// Says what cyclonus thinks of traffic: policies are files given as arguments, one policy each; cells are cyclonus' Traffic as
// JSON, one a line on standard input; the verdicts are one a line on standard output, after a line with the number of policies.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/kube"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	networkingv1 "k8s.io/api/networking/v1"
)

func main() {
	if err := judge(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func judge() error {
	var all []*networkingv1.NetworkPolicy
	for _, path := range os.Args[1:] {
		policies, err := kube.ReadNetworkPoliciesFromPath(path)
		if err != nil {
			return err
		}
		all = append(all, policies...)
	}
	// Its simplifier is no part of the verdict.
	policy := matcher.BuildNetworkPolicies(false, all)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "{\"policies\":%d}\n", len(all))
	for lines.Scan() {
		var cell matcher.Traffic
		if err := json.Unmarshal(lines.Bytes(), &cell); err != nil {
			return err
		}
		result := policy.IsTrafficAllowed(&cell)
		fmt.Fprintf(out, "{\"egress\":%t,\"ingress\":%t}\n", result.Egress.IsAllowed(), result.Ingress.IsAllowed())
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return out.Flush()
}
