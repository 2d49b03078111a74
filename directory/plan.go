package directory

type plan struct{}

func compile(*Manifest, *symbols, Limits) *plan { return &plan{} }
