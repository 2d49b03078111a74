package shop.GET.report

default allowed := false

# Each with each, four million times.
allowed if {
	some a in numbers.range(1, 2000)
	some b in numbers.range(1, 2000)
	a * b == input.attributes.request.time.nanos * -1
}
