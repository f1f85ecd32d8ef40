<!-- nested_outside_its_parent.pml:3:3: module 'miami' is out of place; expected its import inside <plan> -->
<prompt schema="trip">
  <miami/>
  Go on.
</prompt>
