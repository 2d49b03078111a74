package main

import "fmt"

// degradedRoutes are the route tables, and the descriptors, whose file cannot be used: the old ones are in use.
func (e *engine) degradedRoutes() (list []string) {
	for _, r := range e.routes {
		if text := r.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old table stays: %s", r.file.path, *text))
		}
	}
	if e.protos != nil {
		if text := e.protos.problem.Load(); text != nil {
			list = append(list, fmt.Sprintf("routes: %s cannot be used, the old descriptors stay: %s", e.protos.file.path, *text))
		}
	}
	return list
}
