<!-- union_in_union.pml:3:10: misplaced tag <union> in <union>; expected <module> -->
<schema name="s">
  <union><union/></union>
</schema>
