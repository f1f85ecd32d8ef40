<!-- empty_union.pml:3:3: an empty <union>; expected <module> in it -->
<schema name="s">
  <union/>
</schema>
