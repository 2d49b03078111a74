# PUT /items/{item_id:int}   (update_item)
package shop.PUT.items.__item_id

import data.roles

default allowed := false

allowed if roles.may("write")
