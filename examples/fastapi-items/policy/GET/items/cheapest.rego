# GET /items/cheapest   (cheapest_item)
package shop.GET.items.cheapest

# An advertisement.
allowed := true
