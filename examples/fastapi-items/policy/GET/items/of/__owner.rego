# GET /items/of/{owner}   (items_of)
package shop.GET.items.of.__owner

import data.roles

default allowed := false

allowed if roles.may("read")

allowed if roles.self(input.resource.owner)
