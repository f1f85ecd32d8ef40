<!-- parameter_in_union.pml:3:10: misplaced tag <parameter> in <union>; expected <module> -->
<schema name="s">
  <union><parameter name="a" length="1"/></union>
</schema>
