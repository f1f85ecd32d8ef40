<!-- empty_turn.pml:3:3: an empty <user>; expected text or tags in it -->
<schema name="s">
  <user> 
 </user>
</schema>
