package envoygateway

import (
	"gatehouse/doctor/rules"
	"gatehouse/doctor/tree"
)

func Examine(objects []tree.Node, g rules.Gatehouse) ([]rules.Finding, int, error) {
	return nil, 0, nil
}
