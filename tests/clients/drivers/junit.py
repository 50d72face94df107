"""A JUnit report as lines: `PASS case` or `FAIL case: why`."""
import sys
import xml.etree.ElementTree as tree

for suite in tree.parse(sys.argv[1]).getroot().iter("testsuite"):
    for case in suite.iter("testcase"):
        name = f"{case.get('package')} {case.get('classname')}"
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        if bad:
            print("FAIL", f"{name}: {bad[0].tag} {' '.join(bad[0].itertext())}".replace("\n", " "))
        else:
            print("PASS", name)
